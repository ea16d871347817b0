"""Evaluation: does a bundle answer better with its Sharers, and what does that cost?

``task_file`` and ``hub_tasks`` give items, ``prompts`` words them, ``answering`` asks the bundle,
``results_file`` keeps every answer as it comes, ``report`` counts.
"""
