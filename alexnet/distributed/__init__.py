"""Training in several processes, on ``torch.distributed``: the group of processes, and how it is started."""
