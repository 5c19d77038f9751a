"""An application's life: registered on entry, undone on exit; who is alive, and where packages are kept."""
