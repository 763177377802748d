"""From prompts to images, and what is measured in them."""
