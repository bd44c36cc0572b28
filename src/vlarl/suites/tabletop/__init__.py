"""The embedded suite: a table, a Cartesian gripper, coloured cubes and a few fixtures, in MuJoCo."""
