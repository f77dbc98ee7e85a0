"""From finished runs to the paper's tables and figures. This package reads files and writes files, nothing else."""
