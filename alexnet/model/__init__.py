"""What the network is: layers, the one AlexNet class, the table of its published forms, and models as files."""
