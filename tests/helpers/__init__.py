"""Small models, packs and volumes that several rooms' tests share."""
