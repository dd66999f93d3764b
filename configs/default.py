"""Every setting, with its meaning; the other files of this folder change some of these.

    python -m experiments.train --config=configs/default.py --workdir=runs/default

trains ResNet-8 on scikit-learn's digits, in about half a minute on two cores.
Change any setting from the command line: --config.training.epochs=5 --config.data.exclude=3
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    # Or a TFDS image classification set, "folder:PATH", "npz:FILE" (docs/data.md), or "text:FILE" (docs/text.md).
    config.data.name = "digits"
    config.data.dir = ""  # the TFDS folder; empty: TFDS_DATA_DIR, else TFDS's own default; or another PATH or FILE
    config.data.image_size = 0  # resize the square in the middle to this many pixels a side; 0: as stored
    config.data.channels = 0  # 1 or 3: convert to greyscale or colour; 0: as stored
    config.data.class_names = ""  # "cat,dog": the classes in the order of their numbers; empty: as stored
    config.data.stream = False  # leave images in their files, for sets larger than memory; needs image_size and Grain
    config.data.crop = ""  # "resized": train on random areas of streamed images, 8% to all of them, resized
    config.data.mean = ()  # of each channel, 0..1, for the normalisation; empty: of the training images
    config.data.std = ()
    # Share of the training images, the same of each class, never trained on. Where a folder or npz file has no test
    # images, these are the test images.
    config.data.validation = 0.0
    config.data.exclude = ""  # classes to leave out of training, as in "3,5" or "cat": the retrained reference
    config.data.pad = 1  # random crop after padding by so many pixels
    config.data.pad_mode = "reflect"  # or "zeros": black, as torchvision's RandomCrop pads
    config.data.flip = False  # random horizontal flip
    config.data.cutout = 0  # side of a random square set to the mean colour; 0: none
    # Of "text:FILE" (docs/text.md), for which pad, flip and cutout are 0.
    config.data.test = 0.0  # share of the texts of each class to test on, where the file has no test split
    config.data.strip = ""  # "newsgroups": without headers, footers and quotes, as scikit-learn strips them
    config.data.vocabulary = 20000  # tokens, those of padding and of unknown words among them; up to 65536
    config.data.length = 128  # tokens of a text; longer ones are cut
    config.data.word_dropout = 0.0  # share of the tokens that a training step leaves out, drawn anew each time

    config.model = ConfigDict()
    config.model.name = "resnet8"
    config.model.width = 0  # channels of the first stage; 0: the network's usual width
    config.model.stem = "auto"  # "cifar", "strided", "imagenet", or by image size: how far the first layers reduce it
    config.model.dtype = "float32"  # of the computation: "float32" or "bfloat16"
    config.model.layers = 0  # encoder blocks of text_encoder; 0: 2
    config.model.convolution = "xla"  # or "cpu": our own convolutions, with which a CPU trains faster

    config.training = ConfigDict()
    config.training.start_from = ""  # a workdir whose variables to start from; empty: random ones
    config.training.head = "trained"  # or "ridge": only a linear head on start_from is fitted, in closed form
    config.training.epochs = 15
    config.training.batch_size = 64
    config.training.last_batch = "drop"  # or "keep": an epoch ends in a smaller batch of the images left over
    config.training.optimiser = "sgd"  # or "adamw", with which transformers and ConvNeXt are usually trained
    config.training.learning_rate = 0.2  # the peak
    config.training.schedule = "one-cycle"  # or "cosine"
    config.training.warmup = 0.2  # share of the steps in which the rate rises
    config.training.momentum = 0.9  # Nesterov; of adamw, the decay of the first moment
    config.training.weight_decay = 5e-4  # on kernels only: not on biases, nor on batch norm
    config.training.norm_bias_rate = 1.0  # factor on the learning rate of the biases of norms
    config.training.label_smoothing = 0.0
    config.training.gradient = "jax"  # or "torch", "torch-bfloat16": PyTorch computes it, on CPUs 2 to 3 times faster

    config.orthogonality = ConfigDict()
    config.orthogonality.penalty = "so"  # none, so, dso, srip, ocnn
    config.orthogonality.weight = 1e-3  # the paper's own is not known; this is the prototype's
    config.orthogonality.schedule = ((0, 1.0),)  # from epoch e on the weight is multiplied by f: ((e, f), ...)
    config.orthogonality.layers = ""  # regular expression on the module path; empty: every convolution

    config.features = ConfigDict()
    config.features.penalty = "none"  # none, decorrelation, class-means, ownership: of the last features
    config.features.weight = 0.0

    config.head = ConfigDict()  # of training.head = "ridge": docs/exact.md
    config.head.stages = 6  # of the network that it stands on, the last ones: means and maxima of their channels
    config.head.flip = True  # features are averaged over an image and its mirror image
    config.head.random_features = 0  # ReLU features of random directions, beside those of the stages
    config.head.ridge = 1.0  # on the squares of the weights, against the sum over all images
    config.head.scale = 10.0  # of the logits: targets are this for the class of an image and 0 for others
    config.head.keep_features = True  # of each training image, so that single images can be forgotten

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1  # epochs
    config.checkpoint.keep = 2  # newest ones kept

    config.statistics = ConfigDict()
    config.statistics.batch_size = 256
    config.statistics.features = 4000  # training images whose last features are stored too; 0: none
    config.statistics.cached_inputs = 0  # of these, images with stored inputs of the last kernels, for concept-erasure
    return config
