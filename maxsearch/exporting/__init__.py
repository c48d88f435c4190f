"""A trained model as plain files and programs, proved to give the model's vectors before they are put in place."""
