"""Networks: AlexNet in every published form, the baselines, and saving and loading a model."""
