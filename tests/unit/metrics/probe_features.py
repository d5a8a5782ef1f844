"""Features with classes in them, for the known answers of the probes."""

import numpy as np
from sklearn.preprocessing import StandardScaler

CLASSES, CHANNELS = 4, 8


def clusters(images=240, apart=4.0, seed=0, channels=CHANNELS, classes=CLASSES):
    """Features (image, channel) about a centre for each class, and shuffled labels."""
    generator = np.random.default_rng(seed)
    label = generator.permutation(np.arange(images) % classes)
    size = max(channels, classes)
    directions = np.linalg.qr(generator.standard_normal((size, size)))[0]
    centres = apart * directions[label, :channels]
    return centres + generator.standard_normal((images, channels)), label


def parts(x, label):
    """Standardised fit features, fit labels, test features, test labels, as the probes see them."""
    scaler = StandardScaler().fit(x[::2])
    return scaler.transform(x[::2]), label[::2], scaler.transform(x[1::2]), label[1::2]
