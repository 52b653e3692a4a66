"""What `experiments.report` is made of: runs read back, pictures, and the page."""
