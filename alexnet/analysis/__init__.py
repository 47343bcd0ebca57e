"""Analysis of trained networks: activity, filter statistics, receptive fields, attribution."""
