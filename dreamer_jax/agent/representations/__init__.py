"""What shapes the latent beside reward and dynamics, a file for each value of `model.representation`.

"reconstruction" decodes observations. The others do without a decoder: "contrastive" and "redundancy" compare a linear
projection of the latent with the encoder's embedding. The embedding gets no gradient from them, so the encoder learns through
the posterior. "prototypes" assigns two views of each image to learned prototypes. "reward_only" adds nothing.

Each is a `parts.Representation`, registered under its name as those from outside are.
"""
