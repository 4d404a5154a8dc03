"""What a trained network is used for: its answers on new pictures, its export, and the page to play with."""
