"""Files of codes, priors over codes, and samples from them."""
