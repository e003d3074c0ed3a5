"""What a TF.js model consists of, read from its topology alone: nothing in it is executed.

document      JSON with limits, and its objects with typed access
layer         what a layer is here: output shapes and weights
plain, convolutions, recurrent, merging
              one rule per layer class of TF.js
rules         all rules, and the two wrappers
graph         layers wired to networks, in the order TF.js lists them
weights       the one way in: topology → weights in the order in which they travel
"""
