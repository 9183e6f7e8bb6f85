"""The main job: the whole loop on real images, told as a story, with figures at the end."""
