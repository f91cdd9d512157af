"""What reconstructions and samples are worth: bits, classifiers, and sentences about them."""
