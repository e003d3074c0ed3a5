"""Models from files that strangers made, and versions as files for everybody else.

Reading a foreign file is done in a process of its own, which has little time, little memory and
nothing to win; it executes nothing that a file says, and it imports no TensorFlow
(docs/decisions/0007-models-without-tensorflow.md).

converting    the way in, for whoever has a path: `convert_model`
exporting     the way out: `export_version`
limits        what a conversion may take
workroom      starts the process, watches it, and removes what it leaves
worker        the process
formats       what a file is; what can be read is read, all else is refused by name
archives, hdf5, safetensors, tensor_bundle, messages
              containers, each with limits
tfjs_artifacts, keras_archive, keras_h5, saved_model
              models, each from its container
tensors       what the readers find, in the order in which weights travel
keras_config, keras_layers, keras_calls, training_config
              the words of Keras 2 and 3 in those of TF.js
keras_export, keras_3, tfjs_export
              the words of TF.js in those of others
"""
