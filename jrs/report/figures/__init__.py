"""The paper's figures from checkpoints, scene folders and prediction files: pictures at print size, the numbers beside."""
