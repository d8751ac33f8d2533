"""What the figures of a report mean, for a reader who has not run the job. Data only."""

TERMS = (
    (
        "accuracy",
        "Share of the answers on a held-out set that the verifier accepts; one without a verdict counts as wrong. "
        "Measured before training, every few iterations, and at the end.",
    ),
    (
        "pilot, main",
        "The two stages in which training samples are drawn. The pilot gives new prompts a few samples each, from "
        "which p and G are estimated; main is the rest of the budget, spread by the plan. Every count of samples and "
        "tokens includes the pilot unless it says otherwise.",
    ),
    ("p, accept rate", "Probability that a sample of a prompt is accepted, as estimated when the plan was made."),
    ("G", "Norm of the gradient of an accepted sample of a prompt, as estimated when the plan was made."),
    ("n_i", "Samples that prompt i got in an iteration, pilot included."),
    (
        "uniform plan",
        "The plan that gives every prompt the same number of samples at the same cost: what the allocation is "
        "measured against.",
    ),
    (
        "gradient variance, predicted",
        "What the plan promises by its own p and G, over what a uniform plan would have. Below 1 the allocation gains.",
    ),
    (
        "gradient variance, realised",
        "The same ratio, estimated afterwards from the samples drawn. An iteration's value is noisy: look at the "
        "sums over many. The estimate is low: read it against the .8 to .9 that a uniform run shows of itself.",
    ),
    (
        "prompts without gradient",
        "Prompts whose samples teach nothing: none was accepted or, with GRPO, all fared alike.",
    ),
    ("Gini coefficient", "Inequality of n_i: 0 where all prompts get the same, near 1 where one gets everything."),
    ("KL divergence", "How far the policy moved from the one that drew the samples, or from the initial one; nats."),
    ("entropy", "How undecided the policy is at a token, in nats. A collapse towards 0 ends exploration."),
    ("clip fraction", "Share of the tokens whose importance ratio left the clip range, so that they do not train."),
    ("idle", "Share of the time in which the servers, or the learner, waited for the other."),
    (
        "stages of the loop",
        "pilot and main: sampling. grad norms: G of the accepted pilot samples. plan: the allocator. score: old "
        "logprobs and the realised variance. train: the updates. sync: new weights into the servers. evaluate: "
        "held-out accuracy. records and checkpoint: writing to disk.",
    ),
)
"""(term, meaning) each."""
