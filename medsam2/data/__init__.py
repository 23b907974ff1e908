"""Datasets, splits, prompts, transforms and the loader. Import from the modules: nothing is re-exported here.

A dataset (a file each: ``chest_ct``, ``refuge``) lists ``Record``s and loads one ``Case``; ``loader`` turns
cases into batches of prompted objects. Nothing in this package knows Hydra, MLflow or any other package of
this project.
"""
