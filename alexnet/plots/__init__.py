"""Pictures of networks, trainings and recipes: one file per plot."""
