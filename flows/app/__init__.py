"""What FiftyOne's App can do beyond showing: its folder of plugins, and what they work with."""
