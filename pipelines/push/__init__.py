"""`spatialt2i push`: uploads what a run has made to the Hugging Face Hub."""
