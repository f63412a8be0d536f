"""The command `xennetctl`."""
