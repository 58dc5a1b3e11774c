"""The model as measurements see it: isolated, tried, images in and logits out."""
