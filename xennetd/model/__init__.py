"""What is: frozen values and errors that every other package speaks in. Imports nothing of ours."""
