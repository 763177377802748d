"""The emoji world and its language: scenes, prompts, and the captions of its web."""
