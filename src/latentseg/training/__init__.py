"""What every training of this project shares: packed slices, augmentation and a loop that survives a kill."""
