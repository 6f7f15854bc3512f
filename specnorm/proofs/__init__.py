"""What every proof needs: claims, outward rounding, intervals, norms of matrices, frequencies that a claim covers."""
