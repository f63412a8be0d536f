"""What is: frozen values and errors that every other package uses. This package imports no other xennetd package."""
