"""What a trained network has learned: activity, filter statistics, receptive fields, attribution."""
