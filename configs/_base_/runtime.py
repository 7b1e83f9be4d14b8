# What every experiment shares. Values without a source are ours.
data_root = 'data'                              # every data set's folder is below this one
seed = 0
plugins = []                                    # names or paths of the plugins that the config needs
hooks = dict(pictures=dict(type='SceneImages', interval=500))
