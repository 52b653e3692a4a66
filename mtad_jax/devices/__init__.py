"""Where arrays lie: meshes, shardings, and the processes of several hosts."""
