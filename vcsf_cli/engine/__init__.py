"""Videos in, clips out: the manifest, the store of frames, clip reading and augmentation."""
