"""Plan a pretraining and a fine-tuning for somebody's images: `paddlemae plan`."""
