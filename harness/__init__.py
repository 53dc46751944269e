"""The engine: data, pipeline, scoring, results. It imports no method by name.

Modules import from the rows above them only::

    errors                                    the two kinds of failure
    text  secrets  settings  servers  extras  version  plugins
    yaml_files  data                          what comes from outside, checked
    store                                     artefacts, their keys, the code behind them
    recipes  stages                           what a user asks for, what a method is
    trust  registry
    variants  serving                         a recipe's methods with their stages; model servers
    results  execute                          run folders; where work runs
    scoring
    pipeline                                  plan, run, tables
    doctor  cli
"""
