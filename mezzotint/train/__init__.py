"""Making a model: data, corruption, the trainer."""
