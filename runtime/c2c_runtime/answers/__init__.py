"""In: prompts and options. Out: answers: sampled, streamed, batched, or scored."""
