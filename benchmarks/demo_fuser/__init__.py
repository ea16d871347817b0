"""The demo pair's Fuser: trained to let Gemma's knowledge of words reach SmolLM2, and measured."""
