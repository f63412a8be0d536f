"""Frozen values and errors that all other packages use. This package imports no other package of xennetd."""
