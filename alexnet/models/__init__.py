"""What the network is: AlexNet in every published form, the baselines, and a model as files."""
