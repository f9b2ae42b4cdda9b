import { defineConfig } from 'vite'

export default defineConfig({
  base: '/',
  build: {
    outDir: '../src/latentseg/serve/page',
    emptyOutDir: true,
    chunkSizeWarningLimit: 4000,
    target: 'es2022',
    assetsInlineLimit: 0
  }
})
