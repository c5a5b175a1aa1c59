"""What a team would use or write instead, each as a process of its own."""
