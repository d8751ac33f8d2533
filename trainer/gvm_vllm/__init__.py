"""What runs inside the vLLM servers: a plugin that receives weights in place."""
