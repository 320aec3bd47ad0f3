"""The small model that ships: its world, its networks, its training and its judge.

`scripts/train-demo` drives everything here; `scripts/check-demo` uses only the parts that need
numpy (world, prompts, shapes, judge, video). Read in this order: world, prompts, shapes, scene,
vae, umt5, dit, then the training stages.
"""
