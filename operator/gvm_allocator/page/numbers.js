/* The headline numbers: a card each, with its course as a small curve. */

function showNumbers(state) {
  const cards = numbers(state).map(({ name, value, more, curve }) =>
    make(
      "div",
      { class: "card number" },
      make("dt", {}, name),
      make("dd", { class: "value" }, value),
      more ? make("dd", { class: "muted" }, more) : null,
      curve ? makeSparkline(curve) : null,
    ),
  );
  byId("numbers").replaceChildren(...cards);
}

/** Name, value, a remark and the course of each; what was not measured has no card, or a dash. */
function numbers(state) {
  const lines = trained(state);
  const accuracies = evaluationSets(state)
    .slice(0, 2)
    .map((name) => accuracyNumber(state, name));
  return lines.length ? [...accuracies, acceptNumber(lines), savedNumber(lines), ...speedNumbers(lines)] : accuracies;
}

function accuracyNumber(state, name) {
  const curve = evaluated(state)
    .map((line) => line.eval[name]?.accuracy)
    .filter(isNumber);
  const newest = curve[curve.length - 1];
  const more = curve.length > 1 ? `from ${percent(curve[0])}: ${points(newest - curve[0])}` : "before training";
  return { name: `Accuracy, ${name}`, value: percent(newest), more, curve };
}

function acceptNumber(lines) {
  return {
    name: "Accept rate",
    value: percent(last(lines).accept_rate),
    more: "of the last iteration’s samples",
    curve: lines.map(key("accept_rate")),
  };
}

/** 1 − the variance over the uniform plan's: as realised, where that is measured. */
function savedNumber(lines) {
  const saved = (kind) => lines.map((line) => ratio(line, kind)).map((value) => (value === null ? null : 1 - value));
  const [realised, predicted] = [saved("realised"), saved("predicted")];
  const isMeasured = isNumber(realised[realised.length - 1]);
  const curve = isMeasured ? realised : predicted;
  const foreseen = percent(predicted[predicted.length - 1], 0);
  return {
    name: "Variance saved",
    value: percent(curve[curve.length - 1], 0),
    more: isMeasured ? `realised last; predicted ${foreseen}` : "predicted, against uniform",
    curve,
  };
}

function speedNumbers(lines) {
  const newest = last(lines);
  return [
    {
      name: "Samples / s",
      value: short(newest.samples_per_second),
      more: `${count(newest.samples_total)} samples so far`,
      curve: lines.map(key("samples_per_second")),
    },
    {
      name: "Tokens / s",
      value: count(newest.tokens_per_second),
      more: "response tokens",
      curve: lines.map(key("tokens_per_second")),
    },
    {
      name: "Tokens so far",
      value: compact(newest.tokens_total),
      more: `${count(newest.tokens_total)} generated for training`,
      curve: lines.map(key("tokens_total")),
    },
  ];
}
