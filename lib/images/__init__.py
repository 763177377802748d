"""From prompts to images, and measurements on them."""
