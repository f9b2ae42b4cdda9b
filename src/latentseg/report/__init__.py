"""Previews of masks on images, and one self-contained HTML page."""
