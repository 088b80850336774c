"""Images, landmarks and labels joined once, as arrays that workers share."""
