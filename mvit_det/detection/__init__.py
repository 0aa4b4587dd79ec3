"""Selecting and merging detections: soft-NMS, test-time augmentation, sliced inference."""
