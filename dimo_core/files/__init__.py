"""What lies on disks and in object stores: folders, weights, pictures, prompts, caches."""
