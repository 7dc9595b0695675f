"""The policy: a vision-language model, its processor, and the few things that differ between architectures."""

import logging

# PEFT imports bitsandbytes, which advises on some CPUs to install kernels that nothing here needs
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
